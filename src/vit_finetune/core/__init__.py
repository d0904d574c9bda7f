"""What every stage runs on: errors, files, the process of a stage, the device, several
processes."""
