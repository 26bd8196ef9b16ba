"""Other libraries' ways in. Each module here imports its library, so none is imported by edgekern itself."""
