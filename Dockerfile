# The artifact in a pinned CUDA image:
#   docker build -t data-diet .
#   docker run --gpus all -v "$PWD/results:/artifact/results" -v "$PWD/data:/artifact/data" data-diet make figure2
#   docker run -v "$PWD/results:/artifact/results" data-diet make demo
# PyTorch's wheels bring CUDA's libraries, so a base image is enough; CUDA 13 needs driver 580 or newer.
ARG BASE_IMAGE=nvidia/cuda:13.0.3-base-ubuntu24.04@sha256:7c7413a56200486f71f181cad9310f6fd31b6bb21816ade15fc9c1e1e927a5c1
FROM ${BASE_IMAGE}

# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install -y --no-install-recommends python3 python3-venv python3-dev gcc libc6-dev make git \
 && rm -rf /var/lib/apt/lists/*

# The lock first: its layer is kept while the code changes.
ENV VENV=/opt/venv
COPY requirements.txt /artifact/
RUN python3 -m venv /opt/venv \
 && /opt/venv/bin/python -m pip install --no-cache-dir --require-hashes -r /artifact/requirements.txt

WORKDIR /artifact
COPY . .
RUN /opt/venv/bin/python -m pip install --no-cache-dir --no-deps --no-build-isolation -e . \
 && touch /opt/venv/.installed \
 && mkdir -p results data \
 && chmod 777 results data

# Any user may run it, also one without an entry in /etc/passwd.
ENV HOME=/tmp PATH=/opt/venv/bin:$PATH NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
USER 1000
CMD ["make", "help"]
