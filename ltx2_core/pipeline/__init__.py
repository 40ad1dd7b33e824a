"""From the user's request to a finished file: settings, recipe, request, plan, engine, job."""
