"""What each kind of training minimises and measures."""
