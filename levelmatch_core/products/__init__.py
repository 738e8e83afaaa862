"""What goes out: corrected exposures, tables, mosaics, figures, and the folder that holds them."""
