"""What is wrong with a data set, why it matters, and what to do: checks of rows, and repairs that can be undone."""
