"""One module a process: run(config, inputs, out_dir)."""
