"""What people run. `bench` and `demo` are Python programs, each a package of this one."""
