"""What people run. `scripts/demo` is a Python program, so this is a package too."""
