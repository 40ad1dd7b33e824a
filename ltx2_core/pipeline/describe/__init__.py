"""Facts for `ltx2 inspect`, from headers only: one module for each kind of thing."""
