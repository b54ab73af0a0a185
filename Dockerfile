# The artifact in a pinned CUDA image. `make image` builds it and writes its digest into it; docs/container.md.
# PyTorch's wheels bring CUDA's libraries, so a base image is enough; CUDA 13 needs driver 580 or newer.
ARG BASE_DIGEST=sha256:7c7413a56200486f71f181cad9310f6fd31b6bb21816ade15fc9c1e1e927a5c1
ARG BASE_IMAGE=nvidia/cuda:13.0.3-base-ubuntu24.04@${BASE_DIGEST}
# The default is pinned by the digest of its index; another base is for container/check, which has no registry.
# hadolint ignore=DL3006
FROM ${BASE_IMAGE}

# A C compiler is for torch.compile on a GPU. Not pinned: a distribution drops a package's older versions when it
# publishes a newer one, so that a pin would break the build within weeks; the results depend on the lock below.
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install -y --no-install-recommends python3 python3-venv python3-dev gcc libc6-dev make \
 && rm -rf /var/lib/apt/lists/*

# The locks first: their layer is kept while the code changes.
COPY requirements.txt requirements-extras.txt /artifact/
RUN python3 -m venv /opt/venv \
 && for lock in requirements requirements-extras; do \
      /opt/venv/bin/python -m pip install --no-cache-dir --require-hashes -r /artifact/$lock.txt || exit; \
    done

WORKDIR /artifact
COPY . .
# The Makefile takes .installed and .extras for a finished environment. Anybody may run the image, also a user without an
# entry in /etc/passwd (docker run --user): so the home and the folders of results and data are writable for all.
RUN /opt/venv/bin/python -m pip install --no-cache-dir --no-deps --no-build-isolation -e . \
 && /opt/venv/bin/python -m compileall -q repro paper_figures benchmarks \
 && touch /opt/venv/.installed \
 && touch /opt/venv/.extras \
 && mkdir -p /home/artifact results data \
 && chmod 1777 /home/artifact results data

ENV VENV=/opt/venv PATH=/opt/venv/bin:$PATH HOME=/home/artifact USER=artifact \
    NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
USER 1000:1000
CMD ["make", "help"]

# Last, so that another commit keeps the layers above.
ARG BASE_IMAGE
ARG BASE_DIGEST
ARG REVISION
ENV REPRO_IMAGE_BASE=${BASE_IMAGE} REPRO_REVISION=${REVISION}
LABEL org.opencontainers.image.title="lottery-data-diet" \
      org.opencontainers.image.description="Reproducibility artifact for 'Lottery Tickets on a Data Diet' (NeurIPS 2022)" \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.base.name="${BASE_IMAGE}" \
      org.opencontainers.image.base.digest="${BASE_DIGEST}"
