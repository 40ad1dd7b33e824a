"""From what a person asked for to a finished file: settings, recipe, request, plan, engine, job."""
