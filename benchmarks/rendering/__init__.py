"""Results files into tables, charts and the goals met or missed."""
