"""The use case itself: what it may say (`declaration`), what it is (`definition`), finding and loading it (`loading`)."""
