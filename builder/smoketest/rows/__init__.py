"""The rows: accuracy, conduct, speed, and the long ones."""
