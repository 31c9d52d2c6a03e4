"""The lake: where tables lie, and the only code that reads or writes it."""
