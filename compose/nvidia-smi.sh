#!/bin/sh
# Stands for nvidia-smi where there is no GPU: one idle GPU, whose UUID follows from the host's name. Nothing can be
# computed on it. Answers -L, and --query-gpu and --query-compute-apps as CSV; needs a POSIX sh with awk.
set -eu

uuid=$(printf 'GPU-00000000-0000-0000-0000-%012d' "$(hostname | cksum | cut -d ' ' -f 1)")
name='NVIDIA H200'

what= fields= format=
for word in "$@"; do
    case $word in
        -L | --list-gpus) what=list ;;
        --query-gpu=*) what=gpu fields=${word#*=} ;;
        --query-compute-apps=*) what=apps fields=${word#*=} ;;
        --format=*) format=,${word#*=}, ;;
        *) echo "Invalid combination of input arguments. Please run 'nvidia-smi -h' for help."; exit 1 ;;
    esac
done
case $what:$format in
    :*) echo "one fake GPU: $name ($uuid)"; exit ;;
    list:*) echo "GPU 0: $name (UUID: $uuid)"; exit ;;
    *:*,csv,*) ;;
    *) echo '"--query-*" options require "--format=csv" option.'; exit 2 ;;
esac

has_head=1 has_units=1
case $format in *,noheader,*) has_head=0 ;; esac
case $format in *,nounits,*) has_units=0 ;; esac

echo "$fields" | awk -v what="$what" -v has_head="$has_head" -v has_units="$has_units" -v uuid="$uuid" -v name="$name" '
    BEGIN {
        FS = " *, *"
        value["index"] = 0; value["uuid"] = value["gpu_uuid"] = uuid; value["name"] = value["gpu_name"] = name
        value["memory.total"] = 143771; value["memory.used"] = 1; value["memory.free"] = 143156
        value["utilization.gpu"] = value["utilization.memory"] = 0
        value["temperature.gpu"] = 28; value["power.draw"] = "76.50"
        value["driver_version"] = "570.00"; value["pci.bus_id"] = "00000000:01:00.0"
        value["mig.mode.current"] = "Disabled"; value["compute_mode"] = "Default"
        value["pid"] = value["process_name"] = value["used_memory"] = value["used_gpu_memory"] = ""  # of applications
    }
    function unit(field) {
        if (field ~ /^memory\.|^used_/) return "MiB"
        if (field ~ /^utilization/) return "%"
        return field ~ /^power/ ? "W" : ""
    }
    {
        for (i = 1; i <= NF; i++) {
            if (!($i in value)) { printf "Field \"%s\" is not a valid field to query.\n", $i; exit 2 }
            separator = i > 1 ? ", " : ""
            head = head separator $i (has_units && unit($i) ? " [" unit($i) "]" : "")
            row = row separator value[$i] (has_units && unit($i) ? " " unit($i) : "")
        }
        if (has_head) print head
        if (what == "gpu") print row
    }'
