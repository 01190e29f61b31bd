"""What every layer uses and no paper describes: configuration, errors, messages, files, Ray
sessions."""
