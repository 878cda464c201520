"""One page per module; each has a function that adds the page to the app."""
