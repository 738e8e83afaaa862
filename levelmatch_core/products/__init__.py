"""The output: corrected exposures, tables, mosaics, figures, and the folder that contains them."""
