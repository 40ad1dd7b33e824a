"""From a settled record to a finished file: models, stages, decoding. Everything here needs torch."""
