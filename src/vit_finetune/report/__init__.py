"""The headline numbers and the one page to send."""
