"""What measurements are shown as: tables, charts, and the description of the machine they were taken on."""
