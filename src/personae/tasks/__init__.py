"""What is learnt from examples and how it is judged."""
