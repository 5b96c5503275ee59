// Runs the external model on pairs, by subprocess only: training where it is asked for, inference, assembly.
// `supplied` says where the code lies: options of the command by name. A checkpoint and a base config are files, or nothing.
process PTYCHOVIT {
    tag "${meta.id}"
    ext ids: { meta }
    label 'process_gpu'
    label 'isolated_arm'

    input:
    tuple val(meta), val(run), path(test_pairs, stageAs: 'test/*'), path(train_pairs, stageAs: 'train/*')
    path checkpoint, stageAs: 'checkpoint/*'
    path base_config, stageAs: 'base/*'
    val supplied
    val device
    val code_rev

    // The reconstruction is a list of one file at most: an invalid run, which is no failure of the task, leaves none.
    output:
    tuple val(meta), path('recon.npz', arity: '0..*'), emit: recon
    tuple val(meta), path('history.csv'), emit: history, optional: true
    tuple val(meta), path('status.json'), emit: status
    tuple val(meta), path('manifest.json'), emit: manifest
    tuple val(meta), path('{stdout,stderr}.log'), path('bridge_work/*.*'), emit: record
    tuple val(meta), path('checkpoints/run*/*', arity: '0..*'), path('best_model.pth', arity: '0..*'),
        path('invalid/recon.npz', arity: '0..*'), emit: weights

    script:
    def train_flag = train_pairs ? "--train-pairs ${train_pairs}" : ''
    def checkpoint_flag = checkpoint ? "--checkpoint ${checkpoint}" : ''
    def base_flag = base_config ? "--base-config ${base_config}" : ''
    def flags = supplied.collect { name, value -> "--${name} '${value.replace("'", "'\\''")}'" }
    """
    ptychoflow ptychovit run --run '${run}' --test-pairs ${test_pairs} ${train_flag} ${checkpoint_flag} ${base_flag} \\
        ${flags.join(' ')} --device ${device} --attempt ${task.attempt} --code-rev ${code_rev}
    """

    stub:
    """
    mkdir -p bridge_work checkpoints/run1
    touch recon.npz {stdout,stderr}.log bridge_work/{config.yaml,normalization.pkl,driver.py}
    touch checkpoints/run1/{best_model.pth,checkpoint_model.pth,checkpoint.state,config.yaml}
    echo 'epoch,loss' > history.csv
    echo '{"schema_version": 1, "run_id": "${meta.id}", "stage": "ptychovit", "state": "ok", "reason": null}' > status.json
    echo '{"schema_version": 1}' > manifest.json
    """
}
