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

    // One simulated condition with one neural and one iterative run; with --from evaluate one condition whose scan and view
    // are given and one whose scan is to be prepared, with one reconstruction each: enough to walk every branch of the flow.
    stub:
    if( parameters.contains('"from":"evaluate"') )
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
          {"id": "ready", "train": "ready", "test": "ready", "dose": null, "view": "all"},
          {"id": "raw", "train": "raw", "test": "raw", "dose": null, "view": "all"}],
         "views": [
          {"id": "ready__view1", "condition": "ready", "gridsize": 1, "train": "ready", "test": "ready", "file": "view.npz", "config": {}},
          {"id": "raw__gs1", "condition": "raw", "gridsize": 1, "train": "raw", "test": "raw", "file": null, "config": {}}],
         "runs": [
          {"run_id": "ready__mine__n64__s0", "condition": "ready", "view": "ready__view1", "label": "mine", "arm": "imported",
           "kind": "imported", "gridsize": 1, "n": 64, "seed": 0, "train": "ready", "test": "ready", "recon": "mine.npz",
           "config": {}, "evaluate": {}},
          {"run_id": "raw__yours__n64__s3", "condition": "raw", "view": "raw__gs1", "label": "yours", "arm": "imported",
           "kind": "imported", "gridsize": 1, "n": 64, "seed": 3, "train": "raw", "test": "raw", "recon": "yours.npz",
           "config": {}, "evaluate": {}}],
         "skipped": [], "parameters": {}}
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
          {"id": "stub-train", "kind": "simulate", "file": null, "config": {"kind": "lines"}, "dose": "1e9", "n": 64},
          {"id": "stub-test", "kind": "simulate", "file": null, "config": {"kind": "lines"}, "dose": "1e9", "n": 64}],
         "conditions": [
          {"id": "stub", "train": "stub-train", "test": "stub-test", "dose": "1e9", "view": "all"}],
         "views": [
          {"id": "stub__gs1", "condition": "stub", "gridsize": 1, "train": "stub-train", "test": "stub-test", "file": null, "config": {}}],
         "runs": [
          {"run_id": "stub__pinn_torch_gs1__n64__s0", "condition": "stub", "view": "stub__gs1", "label": "pinn_torch_gs1",
           "arm": "pinn_torch", "kind": "train", "gridsize": 1, "n": 64, "seed": 0, "train": "stub-train",
           "test": "stub-test", "config": {"model": {}, "train": {}}, "evaluate": {}},
          {"run_id": "stub__lsqml__n64__s0", "condition": "stub", "view": "stub__gs1", "label": "lsqml",
           "arm": "lsqml", "kind": "iterative", "gridsize": 1, "n": 64, "seed": 0, "train": "stub-train",
           "test": "stub-test", "config": {"lsqml": {}}, "evaluate": {}}],
         "skipped": [], "parameters": {}}
        PLAN
        echo 'stub: two runs' > plan.txt
        echo '{"schema_version": 1}' > manifest.json
        """
}
