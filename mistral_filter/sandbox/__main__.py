"""``python -m mistral_filter.sandbox [--host 127.0.0.1] [--port 8001] [--delay 0.02]``."""

from mistral_filter.sandbox import main

if __name__ == "__main__":
    main()
