# A host for jobs: sshd and python3, nothing of Airflow or of this provider. sshd runs as the account of the jobs.
FROM debian:12.12-slim

RUN apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
        ca-certificates git openssh-client openssh-server procps python3 python3-venv tmux \
    && rm -rf /var/lib/apt/lists/* /etc/ssh/ssh_host_* \
    && useradd --create-home --uid 1000 --shell /bin/bash --password '*' jobs

COPY sshd_config /etc/ssh/jobs.conf
COPY make-keys.sh /usr/local/bin/make-keys
COPY nvidia-smi.sh /usr/local/bin/nvidia-smi
RUN chmod 0755 /usr/local/bin/nvidia-smi /usr/local/bin/make-keys && chmod 0644 /etc/ssh/jobs.conf

USER jobs
CMD ["/usr/sbin/sshd", "-D", "-e", "-f", "/etc/ssh/jobs.conf"]
