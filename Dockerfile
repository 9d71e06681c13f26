# docker build -t mistral-filter . && docker run -p 8000:8000 mistral-filter
FROM python:3.13-slim

WORKDIR /app
COPY requirements.txt pyproject.toml README.md LICENSE ./
COPY mistral_filter ./mistral_filter
RUN pip install --no-cache-dir --disable-pip-version-check -r requirements.txt && \
    pip install --no-cache-dir --disable-pip-version-check --no-deps . && \
    rm -rf /app/*

# Neither root nor anybody that owns a file.
USER 65534:65534

# current keeps every field that Mistral takes; classic, the default elsewhere, keeps the thirteen of the original worker.
ENV MISTRAL_FILTER_FIELDS=current PORT=8000
EXPOSE 8000
HEALTHCHECK --interval=30s --timeout=5s --start-period=10s \
    CMD ["python", "-c", "import os, urllib.request; urllib.request.urlopen(f\"http://127.0.0.1:{os.environ['PORT']}/health\", timeout=4)"]
CMD ["mistral-filter", "serve", "--host", "0.0.0.0"]
