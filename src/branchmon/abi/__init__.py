"""The kernel's face: sysfs, perf_event_open and event descriptors, for programs that speak to the kernel."""
