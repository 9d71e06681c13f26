"""The proxy that stands behind the filter: forwards to Mistral and streams the answer back."""
