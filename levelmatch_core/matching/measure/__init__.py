"""The measurement of a pair: the robust difference of two members over their overlap."""
