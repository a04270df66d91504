# lightning-tl with rendering, training and Ray. Targets: cpu (default) and cuda.
#   docker build -t lightning-tl .
#   docker build -t lightning-tl:cuda --target cuda .
FROM python:3.11-slim-bookworm AS base
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
# the libraries that Blender needs; versions are those of the base image's release
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install -y --no-install-recommends \
      libx11-6 libxrender1 libxxf86vm1 libxfixes3 libxi6 libxext6 libxkbcommon0 libsm6 libice6 libgl1 libgomp1 \
 && rm -rf /var/lib/apt/lists/*
RUN useradd --create-home --uid 1000 tl \
 && mkdir /work \
 && chown tl /work
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONUNBUFFERED=1 OMP_NUM_THREADS=1
COPY pyproject.toml constraints.txt README.md CHANGELOG.md LICENSE /src/
COPY lightning_tl /src/lightning_tl
COPY data_gen /src/data_gen
COPY configs /src/configs
WORKDIR /work
ENTRYPOINT ["lightning-tl"]
CMD ["--help"]

# PyTorch with CUDA's libraries, which its Linux wheels bring; the host brings the driver (docker run --gpus all)
FROM base AS cuda
RUN pip install --constraint /src/constraints.txt '/src[render,cluster,tensorboard]' \
 && rm -r /src
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility,graphics
USER 1000

# for machines without a GPU; with the index of PyTorch's CPU wheels (pytorch.org names it) several GB smaller:
#   docker build -t lightning-tl --build-arg TORCH_INDEX=URL .
FROM base AS cpu
ARG TORCH_INDEX=""
RUN pip install ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} \
      --constraint /src/constraints.txt '/src[render,cluster,tensorboard]' \
 && rm -r /src
USER 1000
