// Trains one neural arm with one seed. Checkpoints live outside the task, so that a killed training goes on; their folder
// comes by the environment (conf/base.config), since an input value would be part of the task's identity.
process TRAIN {
    tag "${meta.id}"
    ext ids: { meta }
    label 'process_gpu'
    label 'isolated_arm'

    input:
    tuple val(meta), val(run), path(train_scan, stageAs: 'train/*'), path(view, stageAs: 'view/*')
    val device
    val code_rev

    output:
    tuple val(meta), path('model'), emit: model, optional: true
    tuple val(meta), path('model/history.csv'), emit: history, optional: true
    tuple val(meta), path('status.json'), emit: status
    tuple val(meta), path('manifest.json'), emit: manifest

    script:
    """
    ptychoflow train --run '${run}' --train-scan ${train_scan} --view ${view} --device ${device} \\
        --checkpoint-dir "\${PTYCHOFLOW_CHECKPOINT_DIR:-checkpoints}" --attempt ${task.attempt} --code-rev ${code_rev}
    """

    stub:
    """
    mkdir -p model/snapshots
    touch model/snapshots/epoch_00001.pt model/weights.pt model/probe.npy model/loss.png
    echo '{"schema_version": 1}' > model/card.json
    echo 'epoch,loss' > model/history.csv
    echo '{"schema_version": 1, "run_id": "${meta.id}", "stage": "train", "state": "ok", "reason": null}' > status.json
    echo '{"schema_version": 1}' > manifest.json
    """
}
