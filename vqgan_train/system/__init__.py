"""Files, devices, processes and errors: the ground that everything else stands on."""
