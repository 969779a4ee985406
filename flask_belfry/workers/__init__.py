"""Workers: the threaded and the forking worker, the pool of processes, and inline execution."""
