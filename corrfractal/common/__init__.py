"""What every layer uses and no paper describes: configuration, errors, messages, report pages."""
