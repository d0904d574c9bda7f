"""What every stage runs on: errors, files, the process of a stage, the device, work side by
side."""
