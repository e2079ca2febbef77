"""`relsdk serve` under load, beside the library and beside other servers (`make bench-serve`)."""
