# docker build --target device -t medkd:device .      runs releases; no torch
# docker build --target train  -t medkd:train .       trains, distils, evaluates; beside a GPU many
#   processes load patches: docker run --gpus all --shm-size 1g …
FROM python:3.11-slim AS device
# dicom,openvino runs int8 too
ARG EXTRAS=dicom
WORKDIR /opt/medkd
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY medkd medkd
RUN pip install --no-cache-dir -c constraints.txt ".[$EXTRAS]"
RUN useradd --create-home medkd
USER medkd
WORKDIR /home/medkd
# a volume mounted here belongs to medkd
RUN mkdir spool
ENTRYPOINT ["medkd"]

FROM device AS train
USER root
WORKDIR /opt/medkd
# Triton compiles a kernel for the GPU at hand
RUN apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev \
  && rm -rf /var/lib/apt/lists/*
RUN pip install --no-cache-dir -c constraints.txt '.[train]'
COPY pipelines pipelines
COPY configs configs
COPY data_cards data_cards
RUN chown -R medkd /opt/medkd
USER medkd
ENTRYPOINT []
CMD ["python", "pipelines/segmentation.py", "configs/phantom_3d.yaml"]
