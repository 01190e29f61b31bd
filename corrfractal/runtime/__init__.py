"""What every layer uses to run: process settings, standard streams, Ray sessions and tasks."""
