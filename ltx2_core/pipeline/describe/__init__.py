"""What anything is that a person may name, in words and from headers alone: a module for each kind of thing."""
