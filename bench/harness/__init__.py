"""Fair timing: interleaved contenders, and the machine they ran on."""
