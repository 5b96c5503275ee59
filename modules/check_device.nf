// Gate before everything that was asked to use a GPU: hands the device on once a step of each framework has run on it, and
// ends the run (69) where it cannot. The device is all that it hands on, so no driver or name enters a later task's hash.
process CHECK_DEVICE {
    tag "${device}"
    label 'process_gpu'

    input:
    val device
    val code_rev

    output:
    val device, emit: device
    path 'device.json', emit: report

    script:
    """
    ptychoflow check-device --device ${device} --code-rev ${code_rev}
    """

    stub:
    """
    echo '{"schema_version": 1, "device": "${device}"}' > device.json
    """
}
