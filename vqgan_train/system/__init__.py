"""The machine below every command: files, devices, processes, jobs and errors."""
