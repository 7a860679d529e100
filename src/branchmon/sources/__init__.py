"""Where retired branches come from: live programs (stepped, translated) and recorded traces."""
