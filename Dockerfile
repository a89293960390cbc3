# A service for one model, on processors. In a clone: docker build -t biofuse .
# How it is run, and what for the token, the weights and a proxy: docs/deploy.md.
ARG PYTHON=3.12
FROM python:${PYTHON}-slim

# Address of an index with builds of torch without CUDA, which are a tenth of the size: its install page names it. All else,
# and torch itself where none is given, comes from the usual index.
ARG TORCH_INDEX=

WORKDIR /src
COPY pyproject.toml README.md LICENSE constraints.txt ./
COPY src ./src
RUN pip install --no-cache-dir ${TORCH_INDEX:+--extra-index-url "${TORCH_INDEX}"} --constraint constraints.txt '.[serve]' \
    && useradd --create-home --uid 10001 biofuse

# Weights from a model hub are kept here: give it a volume, so that they are fetched once.
ENV HF_HOME=/home/biofuse/weights \
    BIOFUSE_HOME=/home/biofuse/store \
    PYTHONUNBUFFERED=1
RUN install -d -o 10001 -g 10001 /home/biofuse/weights /home/biofuse/store
USER 10001
WORKDIR /home/biofuse
EXPOSE 8000
STOPSIGNAL SIGTERM

# Ready once the encoders are loaded, which may take minutes where weights are fetched first.
HEALTHCHECK --interval=30s --timeout=5s --start-period=10m --retries=3 \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/health', timeout=4)"]

# The run, or the saved model, is mounted at /model. More options can follow the name of the image.
ENTRYPOINT ["biofuse", "serve", "/model", "--host", "0.0.0.0", "--port", "8000"]
