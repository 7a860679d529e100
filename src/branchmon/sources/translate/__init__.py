"""The fast exact source: a binary translator that drives the program from outside its process."""
