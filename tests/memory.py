"""Peak memory of a process that a test starts."""

# Code for the program. On Linux `ru_maxrss` of a process starts with what its parent had when it forked: a
# large test process would hide whatever its child does.
PEAK = '''
def peak():
    """Return the most memory that this process had resident, in bytes."""
    import re, resource, sys
    try:
        with open("/proc/self/status") as stream:
            return 1024 * int(re.search(r"VmHWM:\\s*(\\d+)", stream.read())[1])
    except FileNotFoundError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
'''
