"""The HTTP face: connecting in the browser, and the receiver of what providers push."""
