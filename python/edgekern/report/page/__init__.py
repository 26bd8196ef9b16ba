"""The report of a compression run: one page that needs nothing else, and its charts as PNG files."""
