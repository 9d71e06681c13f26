# docker build -t mistral-filter . && docker run -p 127.0.0.1:8000:8000 mistral-filter
FROM python:3.13-slim

WORKDIR /app
COPY requirements.txt .
RUN pip install --no-cache-dir --disable-pip-version-check -r requirements.txt
COPY mistral_filter ./mistral_filter
RUN python -m compileall -q mistral_filter

# An account without rights or files.
USER 65534:65534

# current keeps every field that Mistral takes; classic, the default elsewhere, keeps the thirteen of the original worker.
ENV MISTRAL_FILTER_FIELDS=current PORT=8000 PYTHONDONTWRITEBYTECODE=1
EXPOSE 8000
HEALTHCHECK --interval=30s --timeout=5s --start-period=10s CMD \
    ["python", "-c", "import os, urllib.request as r; r.urlopen('http://127.0.0.1:' + os.environ['PORT'] + '/health', timeout=4)"]
CMD ["python", "-m", "mistral_filter", "serve", "--host", "0.0.0.0"]
