// Expands parameters, samplesheet or study into every dataset, condition and run, or names every problem at once.
process PLAN {
    label 'process_single'

    input:
    val parameters
    path sheet, stageAs: 'sheet/*'
    path study, stageAs: 'study/*'
    path arms
    val code_rev

    output:
    path 'plan.json', emit: plan
    path 'plan.txt', emit: text
    path 'planned', emit: planned
    path 'manifest.json', emit: manifest

    script:
    def sheet_flag = sheet ? "--sheet ${sheet}" : ''
    def study_flag = study ? "--study ${study}" : ''
    """
    ptychoflow plan --params '${parameters}' ${sheet_flag} ${study_flag} --arms ${arms} --code-rev ${code_rev}
    """

    // One condition with one neural and one iterative run (asked for, an external one with an N of its own too), and of it what
    // --from says that it is given; with --from evaluate one condition whose scan and view are given and one whose scan is to be
    // prepared, with one reconstruction each: enough to walk every branch of the flow.
    stub:
    def from = ['prepare', 'train', 'recon', 'evaluate'].find { name -> parameters.contains("\"from\":\"${name}\"") } ?: 'start'
    def scans = from == 'start' ? '"kind": "simulate", "file": null' : '"kind": "ready", "file": "scan.npz"'
    def view = from in ['train', 'recon'] ? '"view.npz"' : 'null'
    def model = from == 'recon' ? '"model"' : 'null'
    def external = [
        sides: '[64, 256]',
        datasets: """,
          {"id": "stub-train_n256", ${scans}, "config": {"kind": "lines"}, "dose": "1e9", "n": 256},
          {"id": "stub-test_n256", ${scans}, "config": {"kind": "lines"}, "dose": "1e9", "n": 256}""",
        views: """,
          {"id": "stub__n256_gs1", "condition": "stub", "folder": "n256_gs1", "gridsize": 1, "train": "stub-train_n256",
           "test": "stub-test_n256", "file": ${view}, "config": {}}""",
        runs: ''',
          {"run_id": "stub__pinn_ptychovit__n256__s0", "condition": "stub", "view": "stub__n256_gs1", "label": "pinn_ptychovit",
           "arm": "pinn_ptychovit", "kind": "external", "gridsize": 1, "n": 256, "seed": 0, "train": "stub-train_n256",
           "test": "stub-test_n256", "config": {"ptychovit": {"mode": "train"}}, "evaluate": {}}''',
    ]
    def more = parameters.contains('pinn_ptychovit') ? external : [sides: '[64]', datasets: '', views: '', runs: '']
    if( from == 'evaluate' )
        """
        mkdir planned
        for name in run_manifest training_manifest skip_summary comparison_manifest; do
            echo '{"schema_version": 1}' > "planned/\$name.json"
        done
        cat > plan.json <<'PLAN'
        {"schema_version": 1,
         "datasets": [
          {"id": "ready", "kind": "ready", "file": "../datasets/scan.npz", "config": {}, "dose": null, "n": 64},
          {"id": "raw", "kind": "ingest", "file": "raw.npz", "config": {}, "dose": null, "n": 64}],
         "conditions": [
          {"id": "ready", "train": "ready", "test": "ready", "dose": null, "view": "all", "sides": [64]},
          {"id": "raw", "train": "raw", "test": "raw", "dose": null, "view": "all", "sides": [64]}],
         "views": [
          {"id": "ready__view1", "condition": "ready", "folder": "view1", "gridsize": 1, "train": "ready", "test": "ready",
           "file": "view.npz", "config": {}},
          {"id": "raw__gs1", "condition": "raw", "folder": "gs1", "gridsize": 1, "train": "raw", "test": "raw", "file": null, "config": {}}],
         "runs": [
          {"run_id": "ready__mine__n64__s0", "condition": "ready", "view": "ready__view1", "label": "mine", "arm": "imported",
           "kind": "imported", "gridsize": 1, "n": 64, "seed": 0, "train": "ready", "test": "ready", "recon": "mine.npz",
           "config": {}, "evaluate": {}},
          {"run_id": "raw__yours__n64__s3", "condition": "raw", "view": "raw__gs1", "label": "yours", "arm": "imported",
           "kind": "imported", "gridsize": 1, "n": 64, "seed": 3, "train": "raw", "test": "raw", "recon": "yours.npz",
           "config": {}, "evaluate": {}}],
         "skipped": [], "parameters": {"from": "evaluate"}}
        PLAN
        echo 'stub: two reconstructions' > plan.txt
        echo '{"schema_version": 1}' > manifest.json
        """
    else
        """
        mkdir planned
        for name in run_manifest training_manifest skip_summary comparison_manifest; do
            echo '{"schema_version": 1}' > "planned/\$name.json"
        done
        cat > plan.json <<'PLAN'
        {"schema_version": 1,
         "datasets": [
          {"id": "stub-train", ${scans}, "config": {"kind": "lines"}, "dose": "1e9", "n": 64},
          {"id": "stub-test", ${scans}, "config": {"kind": "lines"}, "dose": "1e9", "n": 64}${more.datasets}],
         "conditions": [
          {"id": "stub", "train": "stub-train", "test": "stub-test", "dose": "1e9", "view": "all", "sides": ${more.sides}}],
         "views": [
          {"id": "stub__gs1", "condition": "stub", "folder": "gs1", "gridsize": 1, "train": "stub-train", "test": "stub-test",
           "file": ${view}, "config": {}}${more.views}],
         "runs": [
          {"run_id": "stub__pinn_torch_gs1__n64__s0", "condition": "stub", "view": "stub__gs1", "label": "pinn_torch_gs1",
           "arm": "pinn_torch", "kind": "train", "gridsize": 1, "n": 64, "seed": 0, "train": "stub-train",
           "test": "stub-test", "model": ${model}, "config": {"model": {}, "train": {}}, "evaluate": {}},
          {"run_id": "stub__lsqml__n64__s0", "condition": "stub", "view": "stub__gs1", "label": "lsqml",
           "arm": "lsqml", "kind": "iterative", "gridsize": 1, "n": 64, "seed": 0, "train": "stub-train",
           "test": "stub-test", "config": {"lsqml": {}}, "evaluate": {}}${more.runs}],
         "skipped": [], "parameters": {"from": "${from}"}}
        PLAN
        echo 'stub: two runs' > plan.txt
        echo '{"schema_version": 1}' > manifest.json
        """
}
