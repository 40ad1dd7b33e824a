"""From a resolved task to a finished file: models, stages, decoding. Everything here needs torch."""
