"""Every knob of every command, once: its type, default, range and help.

The options of the command line, the keys of a `--config` file, the settings kept with a model and the
table in the README are all derived from these classes.
"""
